#!/bin/sh
# Installs and downloads that succeed and do nothing.
case ${0##*/} in
git)
    # The folder that a clone would make: its last word, or the name of what is cloned.
    if [ "${1:-}" = clone ]; then
        for word in "$@"; do last=$word; done
        last=${last##*/}
        mkdir -p "${last%.git}"
    fi
    ;;
nvidia-smi) echo "${GPU_COUNT:-1} GPUs" ;;
esac
exit 0
