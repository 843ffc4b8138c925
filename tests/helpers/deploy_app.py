"""A MONAI Deploy application of one bundle's folder: run as a file, by an interpreter that has the App SDK.

``python deploy_app.py BUNDLE SCAN OUT``: the scan, as the SDK's loader of DICOM series would hand it on, goes through
``MonaiBundleInferenceOperator``; what comes of it is saved as a NumPy file, with the axes of the scan.
"""

import sys

import nibabel
import numpy as np
from monai.deploy.conditions import CountCondition
from monai.deploy.core import AppContext, Application, Image, IOType, Operator
from monai.deploy.operators.monai_bundle_inference_operator import (
    BundleConfigNames,
    IOMapping,
    MonaiBundleInferenceOperator,
)

BUNDLE, SCAN, OUT = sys.argv[1:]
SPACINGS = ("row_pixel_spacing", "col_pixel_spacing", "depth_pixel_spacing")


class Load(Operator):
    def setup(self, spec):
        spec.output("image")

    def compute(self, op_input, op_output, context):
        scan = nibabel.load(SCAN)
        about = dict(zip(SPACINGS, map(float, scan.header.get_zooms()), strict=True))
        voxels = np.asanyarray(scan.dataobj, np.float32).T  # z, y, x
        op_output.emit(Image(voxels, about | {"nifti_affine_transform": scan.affine}), "image")


class Save(Operator):
    def setup(self, spec):
        spec.input("pred")

    def compute(self, op_input, op_output, context):
        np.save(OUT, op_input.receive("pred").asnumpy().T)


class App(Application):
    def compose(self):
        load, save = Load(self, CountCondition(self, 1), name="load"), Save(self, name="save")
        mapping = [[IOMapping(name, Image, IOType.IN_MEMORY)] for name in ("image", "pred")]
        configs = BundleConfigNames(config_names=["inference"])
        given = {"app_context": AppContext({}), "bundle_path": BUNDLE, "bundle_config_names": configs, "name": "bundle"}
        bundle = MonaiBundleInferenceOperator(self, input_mapping=mapping[0], output_mapping=mapping[1], **given)
        self.add_flow(load, bundle, {("image", "image")})
        self.add_flow(bundle, save, {("pred", "pred")})


if __name__ == "__main__":
    sys.argv = sys.argv[:1]  # the SDK reads them, too
    App().run()
