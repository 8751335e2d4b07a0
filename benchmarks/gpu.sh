#!/bin/sh
# Every check that still awaits a GPU: offline, under 10 minutes, tables in benchmarks/results/.
# Needs torch with CUDA, timm, numpy, scikit-learn, pydantic, safetensors, filelock, pyyaml.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
"$python" -c 'import torch; assert torch.cuda.is_available(), "no GPU: these checks need one"'
timeout 240 "$python" benchmarks/gpu_checks.py
timeout 150 "$python" benchmarks/step_cost.py --device cuda --model resnet18
timeout 150 "$python" benchmarks/step_cost.py --device cuda --model resnet50 --batch-size 128
