"""Deep self-distillation (DeSD) for 3D medical images: what the bundles' configs name, and nothing else.

Method: Ye, Zhang, Chen, Xia, "DeSD: Self-Supervised Learning with Deep Self-Distillation for 3D Medical Image
Segmentation", MICCAI 2022. This is an independent implementation, written from the published description.
"""

from typing import Any

from .base.arithmetic import AutocastInferer, FusedSGD, Muon, keep_freed_memory, require_compiler
from .base.classes import Classes, check_regions, label_count, value_names
from .base.draws import SampleKey, set_determinism
from .base.encoders import pooled_stages, refuse_small_maps, shape_table
from .base.errors import UserError, none_if_null
from .base.files import require_writable
from .base.manifests import agree_with_encoder, known_encoder, load_weights, read_manifest, save_weights
from .base.networks import NetworkEncoder
from .base.processes import distributed_network, joined_processes, leave_processes
from .base.steps import Steps
from .base.version import __version__
from .distillation.encoder import ResNet3DEncoder, build_encoder
from .distillation.handlers import FreezePrototypesHandler, TeacherEMAHandler
from .distillation.loss import DeepSelfDistillationLoss, DistillationOutput
from .distillation.network import DeepSelfDistillationNetwork, ProjectionHead
from .distillation.schedules import CosineSchedule, LearningRateHandler, decay_groups
from .distillation.terms.coding_rate import CodingRateTerm
from .distillation.terms.dense import (
    DenseDistillationLoss,
    DenseDistillationNetwork,
    PrepareDenseViews,
    ViewsWithPoints,
)
from .distillation.views.make import MultiViews, PrepareViews, ViewGeometry
from .distillation.views.recipe import ViewRecipe, changed_view
from .distillation.weights import encoder_from, load_encoder
from .health.evaluation import EncoderEvaluation, evaluated_manifest, probe_data
from .health.features import DrawFeaturesHandler, SaveFeaturesHandler, StageInferer
from .health.monitor import DistillationMonitor, log_start
from .health.probes import CrossViewScore, DenseProbe, TeacherPooling, cross_view_scores, deepest_retrieval
from .health.skipping import SkipNonFiniteHandler
from .pages.handlers import CasePictures, FeaturePictures, ScanPictures
from .pages.outlines import DrawOverlayd
from .pages.run_end import finish_run
from .runs.budget import BudgetHandler, ValidationHandler
from .runs.bundle import bundle_file, given_number, require_version, run_or_bundle
from .runs.command import plain_errors, refuse_unknown_settings
from .runs.config import shared
from .runs.ending import exit_if_stopped
from .runs.folder import RunFolder, SaveWeightsHandler, encoder_manifest
from .runs.guard import ScanDataset, SkipBadScans
from .runs.history import RunRecordHandler
from .runs.layout import ResultLayouts, ScanLayout, keep_subfolders, refuse_overwriting, scans_root
from .runs.log import origin, record_run, start_log
from .runs.progress import ProgressHandler, TerminalProgress
from .runs.resume import ResumeHandler
from .runs.same_run import run_settings, scheduled_epochs
from .scans.cache.cache import VolumeCache
from .scans.cache.quarantine import usable_labelled, usable_records
from .scans.check import check_records
from .scans.contexts import ContextDataset, collate_contexts, middle_slabs, warn_of_equal_boxes
from .scans.datasets import PreprocessedDataset
from .scans.find import require_scans
from .scans.fingerprint import data_fingerprint, records_hash
from .scans.labelled import LabelledData, find_labelled
from .scans.lists import find_scans
from .scans.loading import EpochSampler, ShareableCollate, sample_loader
from .scans.names import CaseNames
from .scans.nnunet.plans import NnunetPlans
from .scans.planning.plan import Plan, announce_plan, make_plan
from .scans.preprocess import Preprocessing, preprocessing_settings, target_spacing
from .scans.read import ScanReader
from .scans.volume import dicom_room
from .segmentation.inference import DecodeOnScand, FlipInferer, SaveProbabilitiesd, SkipAirInferer
from .segmentation.losses import class_targets, decode, segmentation_loss
from .segmentation.mixing import CropMixing, WithUnlabelled
from .segmentation.model import model_manifest, network_from_manifest, segmentation_classes, segmentation_manifest
from .segmentation.network import SegmentationNetwork
from .segmentation.results import ScanWriter
from .segmentation.scores import MetricsReportHandler, SegmentationScores
from .segmentation.self_training import MomentumTeacher, SelfTraining, SelfTrainingSchedule, VolumeWatch
from .segmentation.training import (
    EarlyStop,
    announce_training,
    parameter_groups,
    section_of,
    split_of,
    write_split,
)
from .segmentation.unlabelled import find_unlabelled


def __getattr__(name: str) -> Any:
    """What lies in the optional room for DICOM, looked for there when a config or a person names it."""
    if name == "SaveDicomSegd":
        return dicom_room(name).SaveDicomSegd
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
