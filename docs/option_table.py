"""Prints docs/options.md: the options of SegmentModule, from their schema.

python docs/option_table.py > docs/options.md
"""

from __future__ import annotations

from bmf_trt_seg.options import option_table


def main() -> None:
    print("# Options of SegmentModule\n")
    print("In a graph, these are the keys of the node's `option`; on the command line, `batch_size` is `--batch-size`.")
    print('Numbers and lists may be strings (`"0.5"`, `"person,dog"`), because variables of a graph are.\n')
    print("| option | default | allowed | meaning |\n|---|---|---|---|")
    for name, default, allowed, meaning in option_table():
        print(f"| `{name}` | `{default}` | {allowed} | {meaning} |")


if __name__ == "__main__":
    main()
