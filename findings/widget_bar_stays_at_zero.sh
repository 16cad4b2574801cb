#!/bin/sh
# tqdm 4.70.1, ipywidgets 8.1.9, ipykernel 7.4.0, nbclient 0.11.0 (papermill and nbconvert execute with it).
# Where ipywidgets is installed, tqdm.auto draws its bar as a widget. In a notebook that is executed without
# a browser, what stays in the file for readers without widgets (GitHub, HTML, diffs) is the text of the
# widget's first moment: a loop that ran to its end shows 0 % for ever. Without ipywidgets the same cell
# leaves a text that ends at 100 %.
# Seen: "  0%|          | 0/5 [00:00<?, ?it/s]" with ipywidgets, "100%|...| 5/5" without.
# Exits with 1 if the widget leaves its last state now.
set -e
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/run.py" <<'PYTHON'
import nbformat
from nbclient import NotebookClient

code = "from tqdm.auto import tqdm\nbar = tqdm(range(5))\nfor _ in range(5):\n    bar.update(1)\nbar.close()"
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
NotebookClient(notebook, kernel_name="python3").execute()
for output in notebook.cells[0].outputs:
    text = output.get("text") or output.get("data", {}).get("text/plain", "")
    print(repr(text.strip().split("\r")[-1][-40:]), "100%" in text)
PYTHON
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tqdm==4.70.1 nbclient==0.11.0 ipykernel==7.4.0 nbformat==5.11.1
export JUPYTER_PLATFORM_DIRS=1 JUPYTER_PATH="$folder/venv/share/jupyter" PATH="$folder/venv/bin:$PATH"
python "$folder/run.py" 2>/dev/null | tee "$folder/plain"
pip install --quiet ipywidgets==8.1.9
python "$folder/run.py" 2>/dev/null | tee "$folder/widget"
grep -q True "$folder/plain"
! grep -q True "$folder/widget"
