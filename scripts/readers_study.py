"""Print the page experiments/readers: exported files in other programs.

python scripts/readers_study.py > experiments/readers/README.md        all networks; or their names

Needs spikingjelly, snntorch, sinabs, norse, nirtorch, onnxruntime, openvino, a C compiler and Verilator; yosys for cells and
arm-none-eabi-gcc for the memory of a microcontroller.
"""

import os
import sys
from collections.abc import Callable, Sequence

import torch
from readers.subjects import EPOCHS, LEVELS, NETWORKS, TIMESTEPS, Subject, subject

from readers import integer_section, nir_section, onnx_section

INTRODUCTION = f"""# Exported files in other programs

Made by `python scripts/readers_study.py`: T = {TIMESTEPS}, L = {LEVELS}, 360 test images of digits. mlp and resnet20 are
networks of tests/stored_runs (resnet20 is hardly trained and reacts to any rounding), the others are trained for {EPOCHS} epochs.
Times are those of one thread on a computer that was busy with other work; compare them only within a table."""
NIR = """Outputs differ if they are not equal to the last bit, in any timestep. The readers of SpikingJelly and norse reset to 0,
also if a pulse sets v(0); a neuron of sinabs can fire several times per timestep. nirtorch, which executes graphs for sinabs and
norse, visits nodes depth first, so a node can run before all of its sources; the outputs are then those of a hidden layer. With a
pulse every layer has a second source. `features_3` is average pooling. Differing spikes are counted with those of the relay."""
ONNX = f"""{onnx_section.versions()}. Predictions are compared with torch for the weights in the file; the row of torch shows
the ANN. onnxruntime rounds float32 weights to int8 unless WeightBiasQuantization is disabled. openvino computes layers outside
int8 in bfloat16 on processors that support it, and rounds the float inputs of linear layers with int8 weights to int8. Time of one
image alone."""
ONNX_SNN = """`export=onnx_over_time`: the mean of T outputs; spikes are tensors in the graph. A spike can differ where float32
sums are added in another order. openvino returns outputs only. Time of one image alone."""
INTEGERS = """int8 weights, images of 8 bits. Every spike and logit of all test images is compared with the integer network in
torch. snn.npz is read by [scripts/readers/npz_reader.py](../../scripts/readers/npz_reader.py), which imports NumPy and nothing of
snnconv. Time of one image over T timesteps, in a batch of all images. The size of C is that of its source code, flash and RAM are
those of `arm-none-eabi-gcc -Os`."""
VERILOG = """Simulated on two images over T timesteps. Energy is the mean of both images with the table int8_45nm: of the counted
operations, and the estimate for the float network. Cells by yosys for Xilinx 7-series, all layers together. vgg11 and mobile were
not simulated."""

SECTIONS: Sequence[tuple[str, str, Sequence[str], Callable[[Subject], list[list[str]]]]] = (
    ("NIR", NIR, nir_section.HEAD, nir_section.rows),
    ("ONNX: the quantized ANN", ONNX, onnx_section.HEAD, onnx_section.rows),
    ("ONNX: the spiking network over time", ONNX_SNN, onnx_section.HEAD_SNN, onnx_section.rows_snn),
    ("Integers: NumPy and C99", INTEGERS, integer_section.HEAD, integer_section.rows),
    ("Integers: Verilog", VERILOG, integer_section.HEAD_VERILOG, integer_section.rows_verilog),
)


def main() -> None:
    """Print the page."""
    torch.set_num_threads(1)
    subjects = [subject(name) for name in sys.argv[1:] or NETWORKS]
    print(INTRODUCTION)
    for title, text, head, rows in SECTIONS:
        print(f"\n## {title}\n\n{text}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
        for each in subjects:
            for row in rows(each):
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
