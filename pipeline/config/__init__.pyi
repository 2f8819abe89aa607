from .allowed_classes import (
    import_target as import_target,
    is_allowed as is_allowed,
    own_targets as own_targets,
    plugin_problems as plugin_problems,
    plugins_of as plugins_of,
)
from .file_cache import CachedConfigRepository as CachedConfigRepository, keep_files as keep_files
from .fingerprint import Config as Config, label as label
from .resolvers import register_resolvers as register_resolvers
from .schema import ResolvedConfig as ResolvedConfig, resolved as resolved
from .secrets import is_secret as is_secret, masked as masked, without_secrets as without_secrets
from .validation import node_problems as node_problems, unknown_key_message as unknown_key_message
