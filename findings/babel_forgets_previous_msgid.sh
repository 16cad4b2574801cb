#!/bin/sh
# babel 2.18.0.
# gettext marks a changed text as fuzzy and keeps the old one in lines that begin with "#|" (previous msgid).
# babel writes such lines (`write_po(..., include_previous=True)`), and does not read them: `read_po` leaves
# `previous_id` empty and takes the lines for comments of the translator. The next `write_po` breaks them
# at column 76, also with `width=0`, and puts a space into the mark, "# |". So a tool that reads and writes a
# file loses what a changed text was before, and the remains stay in the file when the mark fuzzy is gone.
# Seen: "previous after reading: ()" and "# | msgid ..." in the second file.
# Exits with 1 if babel reads what it wrote.
set -e
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/run.py" <<'PYTHON'
import io
from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po, write_po

def written(catalog):
    file = io.BytesIO()
    write_po(file, catalog, width=0, omit_header=True, include_previous=True)
    return file.getvalue()

catalog = Catalog(locale="zh")
catalog.add("A batch is a group of texts.", "批次是一组文本。", flags=["fuzzy"], previous_id="A batch is a list.")
first = written(catalog)
again = read_po(io.BytesIO(first), locale="zh")
(message,) = [message for message in again if message.id]
print("written:", [line for line in first.decode().splitlines() if line.startswith("#|")])
print("previous after reading:", tuple(message.previous_id))
print("written again:", [line for line in written(again).decode().splitlines() if "|" in line])
PYTHON
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet babel==2.18.0
"$folder/venv/bin/python" "$folder/run.py" | tee "$folder/said"
grep -q "previous after reading: ()" "$folder/said"
grep -q "written again: \['# | msgid" "$folder/said"
