"""Kinds of machines that a run may be planned for. Needs no torch."""

# Peak rates in multiply-adds times two a second, of the precision's matrix units (data sheets,
# without sparsity), and bytes of memory.
KINDS: dict[str, tuple[dict[str, float], float]] = {
    "a100": ({"fp32": 19.5e12, "tf32": 156e12, "bf16": 312e12, "fp16": 312e12}, 80e9),
    "h100": ({"fp32": 67e12, "tf32": 494e12, "bf16": 989e12, "fp16": 989e12}, 80e9),
    "h200": ({"fp32": 67e12, "tf32": 494e12, "bf16": 989e12, "fp16": 989e12}, 141e9),
    "l40s": ({"fp32": 91.6e12, "tf32": 183e12, "bf16": 362e12, "fp16": 362e12}, 48e9),
    "rtx4090": ({"fp32": 82.6e12, "tf32": 82.6e12, "bf16": 165e12, "fp16": 165e12}, 24e9),
    "t4": ({"fp32": 8.1e12, "tf32": 8.1e12, "bf16": 8.1e12, "fp16": 65e12}, 16e9),
    "v100": ({"fp32": 15.7e12, "tf32": 15.7e12, "bf16": 15.7e12, "fp16": 125e12}, 32e9),
}
REACHED = 0.3  # share of the peak that U-Nets and transformers reach in training: an estimate
