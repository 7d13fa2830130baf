"""`make figure`: time both layers on this machine, print the table, and draw it beside the roofline's prediction.

Runs in the engine's environment, which has torch; on a GPU where there is one, else on the CPU at a smaller scale.
"""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path

import torch

from bench.layer.picture import draw
from bench.layer.prediction import predict
from bench.layer.timing import Layer, Weights, measure_roofs, time_layers

BATCHES = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m bench.layer", description=__doc__)
    gpu = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--scale", type=int, default=1 if gpu else 4, help="divides Mixtral's widths")
    parser.add_argument("--dtype", default="bfloat16" if gpu else "float32")
    parser.add_argument("--threads", type=int, help="on a CPU (default: torch's choice)")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--most", type=int, default=BATCHES[-1], help="largest batch")
    parser.add_argument("--out", type=Path, default=Path("bench/out"))
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    layer = Layer(4096 // options.scale, 14336 // options.scale, 8, 2)
    batches = [batch for batch in BATCHES if batch <= options.most]
    with torch.inference_mode():
        roofs = measure_roofs(device, dtype, options.rounds)
        weights = Weights(layer, device, dtype)
        time_layers(weights, batches[:2], 2)
        timed = time_layers(weights, batches, options.rounds)
        roofs = roofs.or_better(measure_roofs(device, dtype, options.rounds))
    name = (
        torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU thread(s)"
    )
    print(
        f"{name}, {options.dtype}: {roofs.flops / 1e9:,.0f} GFLOP/s and {roofs.bandwidth / 1e9:,.1f} GB/s measured; "
        f"a layer of 8 experts of {layer.hidden} x {layer.width}, 2 a token\n"
    )
    print("| tokens | experts touched | sparse ms | dense ms | faster | predicted | sparse at | dense at |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    rows: list[dict[str, float]] = []
    for each in timed:
        said = predict(layer, each.batch, roofs.flops, roofs.bandwidth, dtype.itemsize)
        row = {
            "tokens": each.batch,
            "experts_touched": each.experts_touched,
            "sparse_ms": each.sparse_seconds * 1e3,
            "dense_ms": each.dense_seconds * 1e3,
            "speed_up": each.dense_seconds / each.sparse_seconds,
            "predicted": said.speed_up,
            "sparse_share_of_roofline": said.sparse_seconds / each.sparse_seconds,
            "dense_share_of_roofline": said.dense_seconds / each.dense_seconds,
        }
        rows.append(row)
        print(
            f"| {each.batch} | {each.experts_touched:.0f} | {row['sparse_ms']:.2f} | {row['dense_ms']:.2f} | "
            f"{row['speed_up']:.2f} x | {row['predicted']:.2f} x | {row['sparse_share_of_roofline']:.0%} | "
            f"{row['dense_share_of_roofline']:.0%} |"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    stamp = f"layer-{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%SZ}"
    found = {"machine": name, "dtype": options.dtype, "flops": roofs.flops, "bandwidth": roofs.bandwidth}
    (options.out / f"{stamp}.json").write_text(json.dumps(found | {"rows": rows}, indent=2))
    picture = draw(
        batches,
        [row["speed_up"] for row in rows],
        [row["predicted"] for row in rows],
        "A sparse layer (2 of 8 experts) against the equal dense one",
        f"{name}, {options.dtype}, hidden {layer.hidden}, expert {layer.width}; median of {options.rounds} rounds",
    )
    (options.out / f"{stamp}.svg").write_text(picture)
    print(f"\nWritten: {options.out / stamp}.json and .svg")


if __name__ == "__main__":
    main()
