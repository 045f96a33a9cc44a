#!/bin/sh
# Python, but for the engines that are started as its modules.
if [ "${1:-}" = -m ]; then
    case ${2:-} in
    vllm | vllm.*) engine=vllm ;;
    sglang | sglang.*) engine=sglang ;;
    *) engine= ;;
    esac
    if [ -n "$engine" ]; then
        shift 2
        exec "$engine" "$@"
    fi
fi
PATH=$FAKE_VAST_REAL_PATH
export PATH
exec "${0##*/}" "$@"
