#!/bin/sh
# An inference engine's launcher: the stand-in worker on the port that the engine would take, which has to be mapped.
engine=${0##*/}
model=
case $engine in
text-generation-launcher) port=${PORT:-3000} model=${MODEL_ID:-} ;;
vllm) port=8000 ;;
sglang) port=30000 ;;
*) port=${LLAMA_ARG_PORT:-8080} ;;
esac
if [ "$engine" = vllm ] && [ "${1:-}" = serve ]; then
    shift
    case ${1:-} in
    '' | -*) ;;
    *) model=$1 ;;
    esac
fi
served=
while [ $# -gt 0 ]; do
    case $1 in
    --port=*) port=${1#*=} ;;
    --port) port=${2:-} ;;
    -p) [ "$engine" = text-generation-launcher ] && port=${2:-} ;;
    --model-id=* | --model=* | --model-path=*) model=${1#*=} ;;
    --model-id | --model | --model-path | -m | -hf) model=${2:-} ;;
    --served-model-name=* | --alias=*) served=${1#*=} ;;
    --served-model-name | --alias) served=${2:-} ;;
    esac
    shift
done
case $port in
'' | *[!0-9]*)
    echo "$engine: no port: '$port'" >&2
    exit 2
    ;;
esac
eval "outside=\${VAST_TCP_PORT_$port:-}"
if [ -z "$outside" ]; then
    echo "$engine: listens on port $port, which is not mapped: nobody outside can reach it" >&2
    outside=0
fi
echo "$engine: $model on port $port, outside $outside"
# shellcheck disable=SC2086 # a list of flags
exec fake-worker --listen "127.0.0.1:$outside" --model "${served:-${model:-fake}}" $FAKE_VAST_WORKER_FLAGS
