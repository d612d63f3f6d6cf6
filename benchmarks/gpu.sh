#!/usr/bin/env bash
# Everything that needs a GPU, in stages: see gpu_stages.py, which has the options.
#   OUT=results/gpu benchmarks/gpu.sh [STAGE...]
# PYTHON: an interpreter that has the package's requirements (make setup EXTRAS=gpu,rtx).
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec "$PYTHON" benchmarks/gpu_stages.py "$@"
