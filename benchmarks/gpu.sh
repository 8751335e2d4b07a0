#!/bin/sh
# Every check that still awaits a GPU: offline, under 10 minutes, tables in benchmarks/results/.
# Needs torch with CUDA, torchvision, timm, zennit, captum, numpy, scikit-learn, pydantic,
# safetensors, filelock and pyyaml.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
"$python" -c 'import torch; assert torch.cuda.is_available(), "no GPU: these checks need one"'
timeout 200 "$python" benchmarks/gpu_checks.py
timeout 110 "$python" benchmarks/step_cost.py --device cuda --model resnet18
timeout 110 "$python" benchmarks/step_cost.py --device cuda --model resnet50 --batch-size 128
timeout 60 "$python" benchmarks/relevance.py --device cuda
timeout 60 "$python" benchmarks/relevance.py --device cuda --dtype bfloat16
timeout 50 "$python" benchmarks/relevance.py --device cuda --dtype bfloat16 \
    --model vit_tiny_patch16_224 --image-size 224
