"""Things that reply."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny, ValidationError

from limbeck.errors import InputError
from limbeck.models.context import PrivilegedContext
from limbeck.models.endpoint import Endpoint
from limbeck.models.local import Local
from limbeck.models.recorded import Recorded
from limbeck.models.scripted import Scripted
from limbeck.models.spec import ModelSpec
from limbeck.spec import Table
from limbeck.yaml_file import problems

MODELS: Table[ModelSpec] = Table("model", ModelSpec, Local, Endpoint, Recorded, PrivilegedContext, Scripted)
AnyModel = Annotated[SerializeAsAny[ModelSpec], BeforeValidator(MODELS.read)]


def model_of_judge(settings: Mapping[str, Any]) -> ModelSpec:
    """The model with these settings. Raises InputError where they are wrong."""
    kind = str(settings.get("kind"))
    try:
        return MODELS.read(settings)
    except ValidationError as error:
        found = problems(error, settings, of=MODELS.get(kind, ModelSpec))
        said = [f"{'.'.join(map(str, loc))} {what}" for loc, what in found]
        raise InputError(f"the judge's model ({kind}): {'; '.join(said)}") from error
    except ValueError as error:
        raise InputError(f"the judge's model ({kind}): {error}") from error
