# Python environments of checks, for scripts that `source` this and set `room`, the folder they are in.

# again COMMAND…: a command that asks a registry; twice more if it fails.
again() {
  "$@" || { sleep 2 && "$@"; } || { sleep 10 && "$@"; }
}

# has_list FOLDER LIST: whether a folder was made, to its end, of just these.
has_list() {
  [ -f "$1/list" ] && [ "$(cat "$1/list")" = "$2" ]
}

# python NAME PACKAGE…: a virtual environment, made once; prints its folder. Some systems' Python has pip and no ensurepip.
python() {
  local folder=$room/$1 list="${*:2}"
  if ! has_list "$folder" "$list"; then
    rm -rf "$folder"
    if python3 -c 'import ensurepip' 2>/dev/null; then
      python3 -m venv "$folder" >&2 && again "$folder/bin/python" -m pip install --quiet "${@:2}" >&2
    else
      python3 -m venv --without-pip "$folder" >&2 &&
        again python3 -m pip --python "$folder/bin/python" install --quiet "${@:2}" >&2
    fi || return 1
    echo "$list" >"$folder/list"
  fi
  echo "$folder"
}
