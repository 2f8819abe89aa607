from .file_cache import CachedConfigRepository as CachedConfigRepository, keep_files as keep_files
from .fingerprint import Config as Config, label as label
from .former_targets import with_current_targets as with_current_targets
from .resolvers import register_resolvers as register_resolvers
from .schema import Plain as Plain, resolved as resolved, without_hydra as without_hydra
from .validation import node_problems as node_problems, unknown as unknown
