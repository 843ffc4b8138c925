"""An annotator's session with MONAI Label: run as a file, by an interpreter that has it.

``python label_session.py BUNDLE STUDIES LABELS FOLDER``: a server on the loopback with the packed BUNDLE, and its own
client: the models; the first two scans of STUDIES segmented, to FOLDER/before; the LABELS of all handed in; two
trainings of one epoch; what the last of them left put into the bundle; the first scan again, to FOLDER/after. Prints
what it saw as one line of JSON. Every model of the server is switched off but the bundle.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from monailabel.client import MONAILabelClient


def main(bundle: Path, studies: Path, labels: Path, folder: Path) -> None:
    """See above."""
    name = bundle.name
    model = Path(shutil.copytree(Path(sys.prefix, "monailabel/sample-apps/monaibundle"), folder / "app")) / "model"
    shutil.copytree(bundle, model / name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    arguments = ["--app", folder / "app", "--studies", studies, "--host", "127.0.0.1", "--port", port]
    arguments += ["--conf", "models", name, "--conf", "zoo_source", "ngc", "--conf", "sam2", "false"]
    command = [sys.executable, "-m", "monailabel.main", "start_server", *map(str, arguments)]
    places = {"TMPDIR": str(folder), "MONAI_LABEL_SESSION_PATH": str(folder / "sessions")}
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(command, cwd=folder, env=os.environ | places, stdout=log, stderr=log)
    try:
        print(json.dumps(annotate(f"http://127.0.0.1:{port}", model / name, studies, labels, folder)))
    finally:
        server.terminate()
        server.wait()


def annotate(address: str, model: Path, studies: Path, labels: Path, folder: Path) -> dict:
    """What the client sees."""
    results = folder / "results"  # the server clears its own temporary files, under the same names
    client, images = MONAILabelClient(address, tmpdir=str(results)), sorted(studies.glob("*.nii.gz"))
    cases = [image.name.removesuffix(".nii.gz") for image in images]
    for _ in range(120):
        try:
            info = client.info()
            break
        except OSError:
            time.sleep(1)

    def infer(case: str, to: str) -> dict:
        file, result = client.infer(model.name, case, {})
        (folder / to).mkdir(exist_ok=True)
        shutil.move(file, folder / to / f"{case}.nii.gz")
        return result["label_names"]

    def train() -> str:
        client.train_start(model.name, {"max_epochs": 1, "val_split": 0.5, "multi_gpu": False})
        while (status := client.train_status())["status"] in ("SUBMITTED", "RUNNING"):
            time.sleep(1)
        return status["status"]

    label_names, _ = (infer(case, "before") for case in cases[:2])
    for case in cases[:-1]:
        client.save_label(case, str(labels / f"{case}.nii.gz"))
    trainings = [train()]
    client.save_label(cases[-1], str(labels / f"{cases[-1]}.nii.gz"))
    trainings.append(train())
    [run] = folder.glob("runs/*/default")
    for file in ("model.pt", "model.json"):
        shutil.copyfile(run / file, model / "models" / file)
    infer(cases[0], "after")
    return {"models": list(info["models"]), "labels": label_names, "trainings": trainings, "run": str(run)}


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
