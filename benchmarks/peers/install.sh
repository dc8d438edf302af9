#!/usr/bin/env bash
# An environment for one peer: benchmarks/peers/install.sh deepsparse|llama|sparseprop|compressed-tensors|peft [FOLDER]
#
# FOLDER (default .venv-peers, or $RAREFY_PEERS) receives FOLDER/<peer>. PYTHON names the interpreter (deepsparse needs
# 3.8 to 3.11). llama.cpp is built from source, about ten minutes on two cores; LLAMA_CMAKE_ARGS replaces its options,
# for example to leave out instructions that the machine to compare with does not have. NICE=1 leaves the cores to others.
set -euo pipefail

peer=${1:?"which peer?"}
folder=${2:-${RAREFY_PEERS:-.venv-peers}}
python=${PYTHON:-python3.11}
gently() { if [[ -n ${NICE:-} ]]; then nice -n 19 "$@"; else "$@"; fi; }

"$python" -m venv "$folder/$peer"
pip=("$folder/$peer/bin/python" -m pip --disable-pip-version-check install)
case $peer in
  deepsparse) NM_DISABLE_ANALYTICS=True gently "${pip[@]}" deepsparse==1.8.0 ;;
  llama*)
    export CMAKE_ARGS=${LLAMA_CMAKE_ARGS:--DGGML_NATIVE=ON} CMAKE_BUILD_PARALLEL_LEVEL=${JOBS:-1}
    gently "${pip[@]}" --no-cache-dir --no-binary llama-cpp-python llama-cpp-python==0.3.36 gguf numpy ;;
  sparseprop)  # its setup asks for pybind11 of the python3 that is found first, and compiles for this machine
    gently "${pip[@]}" ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch numpy scipy pybind11 setuptools wheel
    source="https://github.com/IST-DASLab/sparseprop/archive/df97d8e15b372b59103dceb0df71e1013bbf12a7.tar.gz"
    PATH="$(cd "$folder/$peer/bin" && pwd):$PATH" gently "${pip[@]}" --no-build-isolation --no-deps "$source" ;;
  compressed-tensors)
    gently "${pip[@]}" ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch==2.13.0 transformers==4.57.6 compressed-tensors==0.14.0.1 psutil ;;  # which it imports and does not ask for
  peft) gently "${pip[@]}" ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch==2.13.0 transformers==4.57.6 peft==0.21.2 ;;
  *) echo "install.sh: no peer is called '$peer'; there are deepsparse, llama, sparseprop, compressed-tensors and peft" >&2; exit 2 ;;
esac
echo "install.sh: $peer is in $folder/$peer; benchmarks find it by RAREFY_PEERS=$folder (the default is .venv-peers)"
