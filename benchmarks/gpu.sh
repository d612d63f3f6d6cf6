#!/usr/bin/env bash
# Everything that needs a GPU, in one run: what works (the probe), tests/gpu, every network in every precision, how near the
# roof ResNet-50 comes, and the peers.
#   OUT=results/gpu benchmarks/gpu.sh [NETWORK...]
# PYTHON: an interpreter that has the package's requirements (make setup EXTRAS=gpu, or EXTRAS=cpu,gpu,rtx).
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-benchmarks/results/gpu}
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
mkdir -p "$OUT"
nvidia-smi > "$OUT/nvidia-smi.txt" 2>&1
"$PYTHON" -m resnet_deploy.cli doctor --json > "$OUT/doctor.json" 2> "$OUT/doctor.err"
cat "$OUT/doctor.json"
"$PYTHON" -m pytest -q -rs tests/gpu > "$OUT/tests.txt" 2>&1
tail -n 30 "$OUT/tests.txt"
"$PYTHON" benchmarks/gpu.py --out "$OUT" "$@"
code=$?
"$PYTHON" benchmarks/gpu_roof.py --json "$OUT/gpu_roof.json" 2>&1 | tee "$OUT/gpu_roof.txt"
"$PYTHON" benchmarks/peers.py --cuda --json "$OUT/peers.json" 2>&1 | tee "$OUT/peers.txt"
exit $code
