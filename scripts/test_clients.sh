#!/usr/bin/env bash
# Real programs, unmodified, against a running server with a real model in INT8. The last line is `N passed, N failed`.
#
#   scripts/test_clients.sh              everything
#   scripts/test_clients.sh openai node  some: openai anthropic frameworks node schemathesis autocannon lm_eval browser balancer
#
# PLANISH names the program (default: the release build), INT8 a quantized model (default: made here of the demo's model).
# Clients are installed at pinned versions into a folder of their own; browser and balancer are Debian's (apt-get install chromium
# nginx-light) and are skipped where they are not there.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
planish=$(realpath -m "${PLANISH:-$target/release/planish}")
[ -x "$planish" ] || { echo "error: $planish: expected the program, found none: make build" >&2; exit 1; }
room=$target/clients
here=$PWD/scripts/clients
mkdir -p "$room"
wanted=("$@")
[ ${#wanted[@]} -gt 0 ] || wanted=(openai anthropic frameworks node schemathesis autocannon lm_eval browser balancer)
failed=() passed=()
export PYTHONPATH=$here PYTHONDONTWRITEBYTECODE=1 PLANISH_MODEL=smol
# Nothing here asks a hub, a price list or a tracer.
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 HF_HOME=$room/hf LANGSMITH_TRACING=false DO_NOT_TRACK=1
export NO_PROXY=127.0.0.1,localhost${NO_PROXY:+,$NO_PROXY}
export no_proxy=$NO_PROXY
# The same run everywhere: hypothesis, npm and others act differently where these say that a machine is watching.
unset CI GITHUB_ACTIONS GITLAB_CI BUILDKITE TF_BUILD CIRCLECI CIRRUS_CI CODEBUILD_BUILD_ID TEAMCITY_VERSION
# A busy machine and a slow line are no faults of ours.
export PIP_RETRIES=5 PIP_DEFAULT_TIMEOUT=60 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
export npm_config_cache=$room/npm npm_config_update_notifier=false npm_config_fetch_retries=5 npm_config_audit=false npm_config_fund=false
exec </dev/null

# Clients do not agree on one version of the OpenAI package, so there are three rooms.
sdk=(openai==3.54.0 anthropic==2.12.0 schemathesis==4.32.5)
frameworks=(openai==2.54.0 litellm==1.106.2 instructor==1.17.0 langchain-openai==1.7.3)
harness=("lm_eval[api]==0.4.13")
node=(openai@7.57.0 zod@4.6.7 autocannon@9.0.0 playwright-core@1.65.1)

source scripts/python_room.sh

node_folder() {
  local folder=$room/node list="${node[*]}"
  if ! has_list "$folder" "$list"; then
    rm -rf "$folder"
    mkdir -p "$folder"
    echo '{"private": true}' >"$folder/package.json"
    again npm install --prefix "$folder" --loglevel error --no-progress "${node[@]}" >&2 || return 1
    echo "$list" >"$folder/list"
  fi
  cp "$here"/*.mjs "$folder/"
  echo "$folder"
}

servers=()
stop() {
  for server in "${servers[@]}"; do kill "$server" 2>/dev/null && wait "$server" 2>/dev/null || true; done
}
trap stop EXIT

# serve LOG FLAGS…: a server on a free port; sets `url`.
serve() {
  local log=$room/$1
  "$planish" serve "${@:2}" --port 0 --device cpu --json >"$log.json" 2>"$log.log" &
  servers+=($!)
  # Five minutes: a build for debugging on a busy machine takes its time.
  for _ in $(seq 3000); do
    url=$(sed -n 's/.*"url": "\(.*\)".*/\1/p' "$log.json")
    [ -z "$url" ] || return 0
    kill -0 "${servers[-1]}" 2>/dev/null || break
    sleep 0.1
  done
  cat "$log.log" >&2
  return 1
}

# attempt NAME COMMAND…: one program.
attempt() {
  printf '\n== %s\n' "$1"
  local begin=$SECONDS
  if "${@:2}"; then passed+=("$1"); else failed+=("$1"); fi
  echo "== $1: $((SECONDS - begin)) s"
}

# A model of random weights whose tokens are the bytes.
make_tiny() {
  rm -rf "$1" && mkdir -p "$1"
  cp crates/model/tests/data/llama/*.* crates/cli/tests/data/tokenizer/*.json "$1/"
}

run_balancer() {
  make_tiny "$room/balanced"
  mkdir -p "$room/nginx"
  ROOM=$room/nginx PLANISH=$planish PLANISH_TINY=$room/balanced python3 "$here/balancer_checks.py"
}

run_schemathesis() {
  local folder base=$room/tiny
  folder=$(python sdk "${sdk[@]}") || return 1
  # Thousands of requests, many of them for long answers: a tiny model does.
  make_tiny "$base"
  serve schemathesis "$base" --served-model-name tiny || return 1
  # It leaves folders of its own where it runs.
  (cd "$room" && PLANISH_MODEL=tiny SCHEMATHESIS_HOOKS=schemathesis_checks "$folder/bin/schemathesis" run "$url/openapi.json" \
    --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,openai_error_shape \
    --phases coverage,fuzzing --max-examples "${EXAMPLES:-135}" --seed 1 --request-timeout 300 --generation-database none \
    --suppress-health-check all --no-shrink --no-color --warnings off)
}

# harness MODEL ENDPOINT TASKS ARGS: lm-evaluation-harness; the table, and what the answers must reach.
run_harness() {
  local folder
  folder=$(python harness "${harness[@]}") || return 1
  rm -rf "$room/tasks" "$room/found"
  mkdir -p "$room/tasks"
  cp "$here"/lm_eval_tasks/* "$room/tasks/"
  sed -i "s#DIR#$room/tasks#" "$room"/tasks/*.yaml
  "$folder/bin/lm_eval" run --model "$1" --tasks "$3" --include_path "$room/tasks" --output_path "$room/found" "${@:5}" \
    --model_args "model=smol,base_url=$PLANISH_URL/v1/$2,num_concurrent=4,max_length=4096,$4" 2>"$room/harness.log" ||
    { tail -20 "$room/harness.log"; return 1; }
  python3 - "$room/found" <<'PY'
import glob, json, sys
results = json.load(open(sorted(glob.glob(sys.argv[1] + "/**/results_*.json", recursive=True))[-1]))["results"]
print(results)
choice = results.get("planish_choice")
assert choice is None or choice["acc,none"] >= 5 / 6, "the endings are plain"
assert results
PY
}

run_lm_eval() {
  run_harness local-completions completions planish_choice,planish_generate tokenizer_backend=remote,tokenized_requests=True &&
    run_harness local-completions completions planish_choice,planish_generate tokenizer_backend=remote,tokenized_requests=False &&
    run_harness local-chat-completions chat/completions planish_generate tokenizer_backend=None --apply_chat_template
}

int8=${INT8:-$room/smol-int8}
if [ ! -e "$int8/config.json" ]; then
  "$planish" quantize "${MODEL:-$(scripts/fetch_model.sh models)}" --work-dir "$int8" --calib-samples 16 --calib-seqlen 256
fi
serve smol "$int8" --served-model-name smol
export PLANISH_URL=$url PLANISH_KEY=none
echo "server: $url"

# run_python ROOM NAME PACKAGE…: the checks of that name.
run_python() {
  local folder
  folder=$(python "$1" "${@:3}") || return 1
  "$folder/bin/python" "$here/$2_checks.py"
}

# run_node NAME: the checks of that name.
run_node() {
  local folder
  folder=$(node_folder) || return 1
  node "$folder/$1_checks.mjs"
}

for name in "${wanted[@]}"; do
  case $name in
    openai | anthropic) attempt "$name" run_python sdk "$name" "${sdk[@]}" ;;
    frameworks) attempt frameworks run_python frameworks frameworks "${frameworks[@]}" ;;
    node | autocannon | browser)
      if ! command -v npm >/dev/null || ! node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)'; then
        echo "skipped: $name (no npm, or a Node.js before 20)"
      elif [ "$name" = node ]; then
        attempt node run_node openai
      elif [ "$name" = autocannon ]; then
        attempt autocannon run_node autocannon
      elif command -v chromium >/dev/null; then
        SHOTS=${SHOTS:-$room/shots} attempt browser run_node browser
      else
        echo "skipped: browser (no chromium)"
      fi
      ;;
    schemathesis | lm_eval) attempt "$name" "run_$name" ;;
    balancer)
      if command -v nginx >/dev/null; then attempt balancer run_balancer; else echo "skipped: balancer (no nginx)"; fi
      ;;
    *) echo "error: $name: expected openai, anthropic, frameworks, node, schemathesis, autocannon, lm_eval, browser or balancer" >&2; exit 2 ;;
  esac
done

echo
[ ${#failed[@]} -eq 0 ] || echo "failed: ${failed[*]}"
echo "${#passed[@]} passed, ${#failed[@]} failed"
[ ${#failed[@]} -eq 0 ] && [ ${#passed[@]} -gt 0 ]
