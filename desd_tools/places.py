"""Where the repository's folders lie: commands work from any folder."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUNDLES, PACKAGE, TOOLS = ROOT / "bundles", ROOT / "desd_components", ROOT / "desd_tools"
