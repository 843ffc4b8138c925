"""Deep self-distillation (DeSD) for 3D medical images: what the bundles' configs name, and nothing else.

Method: Ye, Zhang, Chen, Xia, "DeSD: Self-Supervised Learning with Deep Self-Distillation for 3D Medical Image
Segmentation", MICCAI 2022. This is an independent implementation, written from the published description.
"""

from .bundles import bundle_file, require_version, run_or_bundle
from .cache import VolumeCache
from .case_names import CaseNames
from .checks import check_records, require_writable
from .class_names import with_background
from .coding_rate import CodingRateTerm
from .collapse import CollapseHandler
from .continuation import scheduled_epochs
from .data import ContextDataset, PreprocessedDataset
from .dense import DenseDistillationLoss, PrepareDenseViews, ViewsWithPoints
from .dicom_seg import SaveDicomSegd
from .encoder import ResNet3DEncoder, pooled_stages, refuse_small_maps, shape_table
from .errors import UserError, plain_errors
from .evaluation import EncoderEvaluation, evaluated_manifest, probe_data
from .features import SaveFeaturesHandler, StageInferer
from .finetuning import (
    agree_with_encoder,
    announce_training,
    model_manifest,
    network_from_manifest,
    parameter_groups,
    section_of,
    segmentation_classes,
    segmentation_manifest,
    share_of_steps,
    split_of,
    write_split,
)
from .finish import finish_run
from .handlers import (
    EarlyStop,
    FreezePrototypesHandler,
    LearningRateHandler,
    SaveWeightsHandler,
    TeacherEMAHandler,
    shared,
)
from .history import RunRecordHandler
from .inference import FlipInferer, ScanDataset, SkipBadScans
from .labelled import LabelledData, find_labelled
from .loading import ShareableCollate
from .loss import DeepSelfDistillationLoss, DistillationOutput
from .monitor import DistillationMonitor, starting_lines
from .network import DeepSelfDistillationNetwork, ProjectionHead
from .nonfinite import SkipNonFiniteHandler
from .overlays import DrawOverlayd, draw_overlay
from .pictures import CasePictures, FeaturePictures, ScanPictures
from .preprocessing import preprocessing_settings, target_spacing
from .pretraining import (
    decay_groups,
    distributed_network,
    encoder_manifest,
    joined_processes,
    leave_processes,
    log_start,
    optimizer_steps,
    scaled_learning_rate,
    total_batch,
    warn_of_equal_boxes,
)
from .probes import CrossViewScore, DenseProbe, StagePooling, TeacherPooling
from .progress import ProgressHandler, TimeEstimateHandler
from .quarantine import usable_labelled, usable_records
from .reading import ScanReader
from .reconstruction import PrepareMaskedViews, ReconstructionLoss, ReconstructionNetwork
from .record import record_run, start_log
from .records import data_fingerprint, records_hash
from .resume import ResumeHandler
from .run_settings import run_settings
from .sampling import EpochSampler, SampleKey, collate_contexts
from .scan_layout import ScanLayout, keep_subfolders, refuse_overwriting, scans_root
from .scans import find_scans
from .schedules import CosineSchedule
from .scoring import MetricsReportHandler, SegmentationScores
from .segmentation import (
    DiceBCELoss,
    SegmentationNetwork,
    check_regions,
    class_targets,
    decode,
    probabilities,
    segmentation_loss,
)
from .stopping import exit_if_stopped
from .tracking import TrackableOutputHandler
from .view_recipe import ViewRecipe
from .views import MultiViews, PrepareViews, ViewGeometry
from .weights import encoder_from, given, load_encoder, load_weights, read_manifest, save_weights

__version__ = "0.1.0"
