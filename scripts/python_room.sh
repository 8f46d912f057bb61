# Python environments of checks, for scripts that `source` this and set `room`, the folder they are in.

# again COMMAND…: a command that asks a registry; twice more if it fails.
again() {
  "$@" || { sleep 2 && "$@"; } || { sleep 10 && "$@"; }
}

# has_list FOLDER LIST: whether a folder was made, to its end, of just these.
has_list() {
  [ -f "$1/list" ] && [ "$(cat "$1/list")" = "$2" ]
}

# The system's own Python, whatever an environment puts before it on PATH.
system_python=$(command -v python3)

# The pip of the system's Python, for environments without their own; one that is too old for `--python` (before 22.3) is first
# given a newer beside it.
system_pip() {
  if ! "$system_python" -m pip --python "$system_python" --version >/dev/null 2>&1 && [ ! -d "$room/pip" ]; then
    "$system_python" -m pip install --quiet --target "$room/pip.part" 'pip==25.3' >&2 && mv "$room/pip.part" "$room/pip" || return 1
  fi
  PYTHONPATH=$room/pip${PYTHONPATH:+:$PYTHONPATH} "$system_python" -m pip "$@"
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
        again system_pip --python "$folder/bin/python" install --quiet "${@:2}" >&2
    fi || return 1
    echo "$list" >"$folder/list"
  fi
  echo "$folder"
}
