#!/bin/sh
# A Python environment that uses exported models and holds nothing else: clipperf.load without
# PyTorch, open_clip and CUDA.
#
#   sh tools/slim_env.sh DIR             # with ONNX Runtime for CPUs
#   sh tools/slim_env.sh DIR openvino    # with other runtimes: the extras that bear their names
#
# PYTHON is the interpreter that it is made with, by default python3. Where it cannot be made whole,
# DIR is left as it was.
set -eu
if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: sh tools/slim_env.sh DIR [EXTRA,EXTRA]" >&2
    exit 2
fi
root=$(cd "$(dirname "$0")/.." && pwd)
target=$1
if [ -e "$target" ] && [ -n "$(ls -A "$target")" ]; then
    echo "error: $target is not empty: name a new folder, or remove it" >&2
    exit 2
fi
# It is made in its place, as its programs name their interpreter by its path.
was_there=
[ ! -e "$target" ] || was_there=yes
undo() {
    status=$?
    if [ "$status" -ne 0 ]; then
        if [ -n "$was_there" ]; then rm -rf "$target"/* "$target"/.[!.]*; else rm -rf "$target"; fi
        echo "error: $target was not made" >&2
    fi
    exit "$status"
}
trap undo EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
"${PYTHON:-python3}" -m venv "$target"
"$target/bin/python" -m pip install --quiet --disable-pip-version-check "$root[${2:-onnx}]"
kib=$(du -sk "$target" | cut -f1)
echo "$target: $(((kib * 1024 + 500000) / 1000000)) MB"
