"""Sends an exported model to the Hugging Face hub, into a new private repository."""

from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id

from editors.errors import ConfigError, first_line

_KEPT = ".gitattributes"
"""The file of an empty repository."""


def check_destination(repository: str) -> None:
    """Check that a new model can be sent there, before anything is computed.

    Raises:
        ConfigError: for a name that the hub does not take, without a login or with one that may not write
            there, for a repository that holds files, and if the hub cannot be reached.
    """
    _check_name(repository)
    if constants.is_offline_mode():
        raise ConfigError(f"push={repository} needs the hub, but HF_HUB_OFFLINE is set: unset it")
    api, owner = HfApi(), repository.partition("/")[0]
    try:
        user = api.whoami()
        owners = [user["name"], *(group["name"] for group in user.get("orgs", ()))]
        if owner not in owners:
            raise ConfigError(f"push={repository}: the login is for {', '.join(owners)}, not for {owner}")
        files = api.list_repo_files(repository) if api.repo_exists(repository) else []
    except LocalTokenNotFoundError as error:
        raise ConfigError(f"push={repository} needs a login: hf auth login, or set HF_TOKEN") from error
    except (HfHubHTTPError, OSError) as error:
        raise _refused(repository, error) from error
    if held := [name for name in files if name != _KEPT]:
        raise ConfigError(f"push={repository} holds files already, such as {held[0]}: name a new repository")


def push(folder: Path, repository: str) -> str:
    """Create the repository and send the folder; returns its address.

    Raises:
        ConfigError: if the hub refuses or cannot be reached; the folder stays.
    """
    api = HfApi()
    try:
        address = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Edited model")
    except (HfHubHTTPError, OSError, ValueError) as error:  # a ValueError for metadata of the card
        raise _refused(repository, error) from error
    return str(address)


def _check_name(repository: str) -> None:
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ConfigError(f"push={repository} names no repository: {first_line(error)}") from error
    if "/" not in repository:
        raise ConfigError(f"push={repository} has to be USER/NAME")


def _refused(repository: str, error: Exception) -> ConfigError:
    return ConfigError(f"push={repository}: the hub refuses or cannot be reached ({first_line(error)})")
