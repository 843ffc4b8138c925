"""Run folders as the bundles write them, made of drawn figures: for tests of the pages only."""

import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import yaml
from scipy.ndimage import binary_dilation, shift

from desd_tools.studies.phantom import phantom


def write_pretraining(folder: Path, steps: int = 200, prototypes: int = 256) -> Path:
    """A healthy self-distillation: the loss leaves ln K, the entropy falls."""
    draw, rows = np.random.default_rng(0), []
    for step in range(0, steps, 2):
        share = step / steps
        entropy = math.log(prototypes) * (0.95 - 0.4 * share) + draw.normal(0, 0.03)
        kl = 0.4 + 0.5 * math.exp(-4 * share) + draw.normal(0, 0.05)
        row = {
            "step": step,
            "iteration": 2 * step,
            "epoch": 1 + step // 50,
            "seconds": 0.4 * step,
            "loss": entropy + kl,
        }
        row |= {f"stage_{s}_loss": entropy + kl + 0.3 / s + draw.normal(0, 0.03) for s in (1, 2, 3, 4)}
        row |= {f"feature_rank_{s}": 4 + 6 * share + s + draw.normal(0, 0.3) for s in (1, 2, 3, 4)}
        row |= {f"head_gradient_norm_{s}": math.exp(-share) / s for s in (1, 2, 3, 4)}
        row |= {"view_match": 0.2 + 0.3 * share, "teacher_distance": 0.03 * (1 - share)}
        row |= {"marginal_entropy": entropy + 0.3 * share}
        row |= {f"dense_stage_{s}_loss": entropy + kl + 0.2 / s for s in (1, 2, 3, 4)}
        row |= {"dense_teacher_entropy": entropy, "dense_kl": kl}
        row |= {"teacher_entropy": entropy, "kl": kl, "learning_rate": 1e-3 * math.cos(1.5 * share)}
        row |= {
            "teacher_momentum": 1 - 0.01 * math.cos(1.5 * share),
            "teacher_temperature": 0.04 + 0.03 * min(1, 3 * share),
        }
        rows.append(row)
    rows += [{"epoch": epoch, **{f"val_retrieval_{s}": 0.1 * s for s in (1, 2, 3, 4)}} for epoch in (2, 4)]
    _write(folder, rows, {"num_prototypes": prototypes, "seed": 3, "max_epochs": 4})
    alarm = "Epoch 1, iteration 8: the teacher <says> the same."
    log = f"2026-01-01 10:00:00 WARNING desd_components.health.monitor: {alarm}\n"
    (folder / "train.log").write_text(log + "2026-01-01 10:00:01 INFO desd_components: fine\n")
    return folder


def write_arm(folder: Path, dataset: Path, cases: list[str], moves: float) -> Path:
    """A fine-tuned arm: its predictions are the truth moved by a few voxels; Dice is computed from them."""
    draw = np.random.default_rng(round(10 * moves))
    rows = [{"step": s, "epoch": 1 + s // 10, "seconds": s / 5, "loss": 0.3 + math.exp(-s / 40)} for s in range(100)]
    rows += [
        {"epoch": s // 20, "val_mean_dice": 0.7 - 0.5 * math.exp(-s / 30) - moves / 50} for s in (20, 40, 60, 80, 99)
    ]
    _write(folder, rows, {"seed": 3, "max_epochs": 10})
    (folder / "predictions").mkdir()
    names, records = list(phantom.CLASS_NAMES), []
    for case in cases:
        truth = nib.load(dataset / "labelsTr" / f"{case}.nii.gz")
        label = np.asarray(truth.dataobj)
        guess = shift(label, draw.uniform(-moves, moves, 3), order=0).astype(np.uint8)
        grown = binary_dilation(guess == 1) & (guess == 0)
        guess[grown & (draw.random(guess.shape) < 0.5)] = 1
        nib.save(nib.Nifti1Image(guess, truth.affine), folder / "predictions" / f"{case}.nii.gz")
        dice = {
            n: 2 * float(((label == i) & (guess == i)).sum()) / float((label == i).sum() + (guess == i).sum())
            for i, n in enumerate(names)
            if i
        }
        records.append({"image": f"{case}.nii.gz", "dice": dice, "hd95": {n: 10 * (1 - d) for n, d in dice.items()}})
    mean = {m: {n: float(np.mean([r[m][n] for r in records])) for n in names[1:]} for m in ("dice", "hd95")}
    for scores in mean.values():
        scores["mean"] = float(np.mean(list(scores.values())))
    (folder / "metrics.json").write_text(json.dumps({"classes": names, "cases": records, "mean": mean}))
    return folder


def _write(folder: Path, rows: list[dict], config: dict) -> None:
    folder.mkdir(parents=True)
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    environment = {
        "versions": {"torch": "2.13.0", "monai": "1.6.1"},
        "command": ["python", "-m", "monai.bundle", "run"],
    }
    environment |= {
        "started": "2026-01-01T10:00:00+00:00",
        "device": "cpu",
        "config_hash": "c0ffee",
        "data_hash": "da7a",
    }
    (folder / "environment.json").write_text(json.dumps(environment))
