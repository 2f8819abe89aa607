from .file_cache import keep_files as keep_files
from .fingerprint import Config as Config, label as label
from .resolvers import register_resolvers as register_resolvers
from .schema import Plain as Plain, resolved as resolved, without_hydra as without_hydra
from .validation import node_problems as node_problems, unknown as unknown
