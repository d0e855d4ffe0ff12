#!/usr/bin/env bash
# Times the pair of the paper on one GPU, with random weights: see programs/gpu_bench/README.md.
# It has not been run on a GPU yet; only its options, the model shapes and SGLang's flags were checked.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: programs/gpu_bench.sh --tokenizer DIR --out DIR [options]

Times QwQ-32B with DeepSeek-R1-Distill-Qwen-1.5B on one CUDA GPU, with random weights of their shapes: the
base alone, steps that are rewritten and tokens that are corrected; then all of it again with token-level
speculative decoding inside the base.

  --tokenizer DIR           a folder with a Qwen2.5 tokenizer (a line of `specreason-sgl models path mini`)
  --out DIR                 where specreason.json, specreason-decode.json and logs are written
  --wheels DIR              install these wheels for this run, if sglang cannot be imported
  --attention-backend NAME  SGLang's, for both models (default: triton)
  --token-budget N          tokens of a chain of thought (default: 512)
  --correct-every N         correct about every N-th drafted token (default: 28)
  --limit SECONDS           of each of the two parts (default: 210)
  --dry-run                 print the two commands; needs no GPU

PYTHON names the interpreter (default: python3). Exit status: 2 for wrong input, 1 where something failed.
TEXT
}

fail() { echo "error: $2" >&2; exit "$1"; }

tokenizer="" out="" wheels="" backend=triton budget=512 every=28 limit=210 dry_run=""
problems=3 step=32 accept=3 # tokens of a step; tokens that a round of token-level speculation keeps
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --dry-run) dry_run=yes; shift; continue ;;
    --tokenizer | --out | --wheels | --attention-backend | --token-budget | --correct-every | --limit) ;;
    *) fail 2 "no such option: $1 (see --help)" ;;
  esac
  [ -n "${2:-}" ] || fail 2 "$1 needs a value (see --help)"
  case "$1" in
    --tokenizer) tokenizer=$2 ;;
    --out) out=$2 ;;
    --wheels) wheels=$2 ;;
    --attention-backend) backend=$2 ;;
    --token-budget) budget=$2 ;;
    --correct-every) every=$2 ;;
    --limit) limit=$2 ;;
  esac
  shift 2
done
for number in "$budget" "$every" "$limit"; do
  [[ $number =~ ^[1-9][0-9]*$ ]] \
    || fail 2 "--token-budget, --correct-every and --limit must be whole numbers above 0, got $number"
done
[ -n "$tokenizer" ] || fail 2 "--tokenizer is missing (see --help)"
[ -n "$out" ] || fail 2 "--out is missing (see --help)"
[ -f "$tokenizer/tokenizer.json" ] || fail 2 "$tokenizer has no tokenizer.json"
[ -z "$wheels" ] || compgen -G "$wheels/*.whl" > /dev/null || fail 2 "$wheels holds no wheels"

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
work=$(mktemp -d)
running=""
clean_up() {
  if [ -n "$running" ]; then # only what this script started; the bench ends its own servers
    kill -TERM "$running" 2> /dev/null || true
    wait "$running" 2> /dev/null || true
  fi
  rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM
# The package from this tree, not installed: no dependency is checked, and its CPU platform, which needs a
# newer SGLang than an offline machine may have, is not registered. A GPU does not need it.
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"

if [ -z "$dry_run" ]; then
  # The base takes 72 GiB, the draft 6; a quarter of what is free at a start has to stay free (see below).
  "$python" - <<'PY' || exit 1
import sys
try:
    import torch
except ImportError as error:
    sys.exit(f"error: {error}")
if not torch.cuda.is_available():
    sys.exit("error: no CUDA GPU here; this benchmark needs one with 110 GiB of free memory")
free = torch.cuda.mem_get_info()[0] / 2**30
if free < 110:
    sys.exit(f"error: the GPU has {free:.0f} GiB of free memory; this benchmark needs 110")
PY
  if ! "$python" -c "import sglang" 2> /dev/null; then
    [ -n "$wheels" ] || fail 1 "$python cannot import sglang, and no --wheels are given"
    # Beside the machine's own packages, not over them. --no-deps: most of SGLang's are for other models.
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$work/site" "$wheels"/*.whl
    export PYTHONPATH="$work/site:$PYTHONPATH"
    "$python" -c "import sglang" || fail 1 "sglang cannot be imported with these wheels"
  fi
  mkdir -p "$out"
fi

draft=deepseek-r1-distill-qwen-1.5b
cp -r "$root/programs/gpu_bench/qwq-32b" "$root/programs/gpu_bench/$draft" "$work/"
# STANDALONE wants one size of vocabulary in both models: the draft's two embeddings get 128 rows more.
mkdir "$work/decode-draft"
sed 's/"vocab_size": 151936/"vocab_size": 152064/' "$work/$draft/config.json" \
  > "$work/decode-draft/config.json"
for model in qwq-32b "$draft" decode-draft; do
  for name in tokenizer.json tokenizer_config.json chat_template.jinja; do
    if [ -f "$tokenizer/$name" ]; then cp "$tokenizer/$name" "$work/$model/"; fi
  done
done

# Memory. SGLang keeps (1 - fraction) of what was free before its own weights, and gives the KV cache the
# rest. `bench` starts both servers at once, so what each finds free depends on the other's progress; a cap
# in tokens makes the outcome the same in every order: base 61 GiB + 8 GiB of KV cache (256 KiB a token),
# draft 3.3 GiB + 1.8 GiB (28 KiB a token), 2 to 3 GiB each for CUDA and graphs.
common="--attention-backend $backend --sampling-backend pytorch --grammar-backend none --random-seed 0
  --mem-fraction-static 0.75 --context-length 8192 --chunked-prefill-size 2048 --max-running-requests 8
  --cuda-graph-max-bs-decode 8 --disable-prefill-cuda-graph" # few graphs: seconds to capture, not minutes
speculative="--speculative-algorithm STANDALONE --speculative-draft-model-path $work/decode-draft
  --speculative-draft-load-format dummy --speculative-num-steps 3 --speculative-eagle-topk 1
  --speculative-num-draft-tokens 4"

bench() { # name, further flags of the base
  local command=("$python" -m specreason_sgl.cli bench
    --draft "$work/$draft" --base "$work/qwq-32b" --load-format dummy
    --draft-args "${common//$'\n'/} --max-total-tokens 65536"
    --base-args "${common//$'\n'/} --max-total-tokens 32768 ${2//$'\n'/}"
    --modes base,draft,sequential,pipelined,correct
    --acceptance 0.8,0.95 --correct-every "$every" --limit "$problems"
    --token-budget "$budget" --step-tokens "$step" --out "$out/$1.json")
  if [ -n "$dry_run" ]; then printf '%q ' "${command[@]}"; echo; return; fi
  echo "$1: at most $limit s" >&2
  # The cache is only where the servers' logs go: these models are folders, and nothing is fetched.
  SPECREASON_SGL_CACHE="$out/$1" timeout --kill-after=20 "$limit" "${command[@]}" > "$out/$1.log" 2>&1 &
  running=$!
  local status=0
  wait "$running" || status=$?
  running=""
  [ "$status" -eq 0 ] || echo "error: $1 ended with status $status (124: out of time); see $out/$1.log" >&2
  return "$status"
}

failed=0
bench specreason "" || failed=1
# Random weights never agree, so SGLang is told how many drafted tokens to keep (its own benchmark setting).
export SGLANG_SIMULATE_ACC_LEN=$accept SGLANG_SIMULATE_ACC_TOKEN_MODE=real-draft-token
bench specreason-decode "$speculative" || failed=1
exit "$failed"
