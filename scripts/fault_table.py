"""Make the table of docs/faults.md from what the tests of faults saw: `scripts/fault_table.py RECORDS.jsonl`.

`make test-faults` runs them and then this. A fault whose test failed or was not run is not in the table.
"""

import json
import sys
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "faults.md"
BEGIN, END = "<!-- made by scripts/fault_table.py: begin -->", "<!-- end -->"
HEADER = "| where | fault | what it says | exit status | what is kept | left behind, of ours / of others' | seconds |"


def main(records: Path) -> None:
    last = {record["test"]: record for record in map(json.loads, records.read_text().splitlines())}
    rows = sorted(last.values(), key=lambda record: (record["where"], record["fault"], record["test"]))
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    table = "\n".join([HEADER, "|" + "---|" * (HEADER.count("|") - 1), *map(row, rows)])
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")
    print(f"{PAGE}: {len(rows)} faults")


def row(record: dict) -> str:
    if "skipped" in record:
        return f"| {record['where']} | {record['fault']} | not run: {cell(record['skipped'])} | | | | |"
    status = "" if record["exit_status"] is None else record["exit_status"]
    left = f"{record['processes_left']} processes, {record['memory_left']} names in /dev/shm"
    left += " / all theirs" if record["others_untouched"] else " / THEIRS WERE TOUCHED"
    cells = [record["where"], record["fault"], cell(record["message"]), status, cell(record["kept"]), left]
    return f"| {' | '.join(map(str, cells))} | {record['seconds']} |"


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
