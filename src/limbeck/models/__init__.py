"""Things that reply."""

from typing import Annotated

from pydantic import BeforeValidator, SerializeAsAny

from limbeck.models.context import PrivilegedContext
from limbeck.models.endpoint import Endpoint
from limbeck.models.local import Local
from limbeck.models.recorded import Recorded
from limbeck.models.scripted import Scripted
from limbeck.models.spec import ModelSpec
from limbeck.spec import Table

MODELS: Table[ModelSpec] = Table("model", ModelSpec, Local, Endpoint, Recorded, PrivilegedContext, Scripted)
AnyModel = Annotated[SerializeAsAny[ModelSpec], BeforeValidator(MODELS.read)]
