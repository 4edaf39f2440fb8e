"""Things that reply."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny, ValidationError

from limbeck.errors import InputError, sentence
from limbeck.models.context import PrivilegedContext
from limbeck.models.endpoint import Endpoint
from limbeck.models.local import Local
from limbeck.models.recorded import Recorded
from limbeck.models.scripted import Scripted
from limbeck.models.spec import ModelSpec
from limbeck.spec import Table

MODELS: Table[ModelSpec] = Table("model", ModelSpec, Local, Endpoint, Recorded, PrivilegedContext, Scripted)
AnyModel = Annotated[SerializeAsAny[ModelSpec], BeforeValidator(MODELS.read)]


def model_of_judge(settings: Mapping[str, Any]) -> ModelSpec:
    """The model with these settings. Raises InputError where they are wrong."""
    try:
        return MODELS.read(settings)
    except ValidationError as error:
        said = [f"{'.'.join(map(str, one['loc']))} {sentence(one)}" for one in error.errors()]
        raise InputError(f"the judge's model {dict(settings)}: {'; '.join(said)}") from error
    except ValueError as error:
        raise InputError(f"the judge's model {dict(settings)}: {error}") from error
