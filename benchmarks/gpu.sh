#!/bin/sh
# Every check that still awaits a GPU: offline, under 10 minutes, tables in benchmarks/results/.
# A check that fails does not keep the others from running. Needs torch with CUDA, torchvision,
# timm, zennit, captum, numpy, scikit-learn, pydantic, safetensors, filelock and pyyaml.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
"$python" -c 'import torch; assert torch.cuda.is_available(), "no GPU: these checks need one"'
failed=0
check() {
    seconds=$1
    shift
    timeout "$seconds" "$python" "$@" || { failed=1; echo "failed: $*" >&2; }
}
check 200 benchmarks/gpu_checks.py
check 80 benchmarks/step_cost.py --device cuda --model resnet18
check 80 benchmarks/step_cost.py --device cuda --model resnet50 --batch-size 128
check 60 benchmarks/throughput.py --device cuda --train-size 2048
check 50 benchmarks/relevance.py --device cuda
check 50 benchmarks/relevance.py --device cuda --dtype bfloat16
check 50 benchmarks/relevance.py --device cuda --dtype bfloat16 \
    --model vit_tiny_patch16_224 --image-size 224
check 25 benchmarks/evaluation.py --device cuda --repeats 2 --only "predictions and calibration" \
    "occlusion random-pixels" "occlusion most-relevant-first" margin "erasure, gradient"
exit "$failed"
