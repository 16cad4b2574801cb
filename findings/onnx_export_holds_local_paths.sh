#!/bin/sh
# torch 2.13.0 (CPU), onnx 1.23.2, onnxscript 0.7.2, onnxruntime 1.32.0.
# torch.onnx.export writes into each node of the ONNX file, as metadata, the stack trace of the line of Python
# that it came from: the full paths of the library and of the program on the computer of whoever exports, and
# their source lines. ONNX Runtime's quantize_dynamic copies most of them into the int8 file. Whoever
# publishes the file publishes them. The call has no option against it; clearing `metadata_props` of the
# exported program's nodes before saving takes them out, and changes no output.
# Seen: the folder of this script's program is in both files many times, and in none after clearing.
# Exits with 1 if that changes.
set -e
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0
cat >"$folder/program.py" <<'PYTHON'
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import quantize_dynamic

folder = Path(__file__).parent


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(8, 16), torch.nn.Linear(16, 2)

    def forward(self, inputs):
        hidden = torch.relu(self.first(inputs))
        return self.second(hidden)


def answer(file):
    session = onnxruntime.InferenceSession(file)
    return session.run(None, {session.get_inputs()[0].name: np.ones((1, 8), np.float32)})[0]


program = torch.onnx.export(Model().eval(), (torch.ones(1, 8),), verbose=False)
program.save(folder / "as_it_is.onnx")
quantize_dynamic(folder / "as_it_is.onnx", folder / "int8.onnx", op_types_to_quantize=["MatMul", "Gemm"])
for node in program.model.graph.all_nodes():
    node.metadata_props.clear()
program.save(folder / "cleared.onnx")
path = str(folder).encode()
counts = {name: (folder / f"{name}.onnx").read_bytes().count(path) for name in ("as_it_is", "int8", "cleared")}
print(counts)
same = np.array_equal(answer(folder / "as_it_is.onnx"), answer(folder / "cleared.onnx"))
sys.exit(not (counts["as_it_is"] > 0 and counts["int8"] > 0 and counts["cleared"] == 0 and same))
PYTHON
"$folder/venv/bin/python" "$folder/program.py" 2>/dev/null
