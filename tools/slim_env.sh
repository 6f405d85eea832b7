#!/bin/sh
# A Python environment that uses exported models and holds nothing else: clipperf.load without
# PyTorch, open_clip and CUDA.
#
#   sh tools/slim_env.sh DIR             # with ONNX Runtime for CPUs
#   sh tools/slim_env.sh DIR openvino    # with other runtimes: the extras that bear their names
#
# PYTHON is the interpreter that it is made with, by default python3.
set -eu
if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: sh tools/slim_env.sh DIR [EXTRA,EXTRA]" >&2
    exit 2
fi
root=$(cd "$(dirname "$0")/.." && pwd)
if [ -e "$1" ] && [ -n "$(ls -A "$1")" ]; then
    echo "error: $1 is not empty: name a new folder, or remove it" >&2
    exit 2
fi
"${PYTHON:-python3}" -m venv "$1"
"$1/bin/python" -m pip install --quiet --disable-pip-version-check "$root[${2:-onnx}]"
echo "$1: $(du -sm "$1" | cut -f1) MB"
