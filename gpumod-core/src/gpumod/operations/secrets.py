"""service secret ...: values for a service's environment that no definition holds and nothing shows."""

from __future__ import annotations

from gpumod.domain.errors import Failed, GpumodError, UsageError
from gpumod.domain.secrets import HIDDEN, is_hidden, public, why_no_variable
from gpumod.domain.service import Service
from gpumod.engine.variables import why_not_with
from gpumod.operations.base import Base, unknown
from gpumod.operations.params import SecretRef, SecretWrite, ServiceRef
from gpumod.operations.unit_results import SecretsResult
from gpumod.ports.secrets import Secrets


def refuse_hidden(service: str, options: object) -> None:
    """Raise UsageError `hidden-value` for what was copied from where secrets are not shown."""
    if is_hidden(options):
        why = f"{HIDDEN} stands for a value that is not shown"
        hint = f"give the value itself, or keep it apart: gpumod service secret set {service} NAME"
        raise UsageError("hidden-value", f"an option of service {service!r} is {HIDDEN}", why=why, hint=hint)


class ServiceSecrets(Base):
    async def secret_list(self, params: ServiceRef) -> SecretsResult:
        """Names of a service's secrets."""
        service = self._service(params.service)
        return SecretsResult(service=service.id, names=self._machine.secrets.names(service.id))

    async def secret_set(self, params: SecretWrite) -> SecretsResult:
        """Set a variable of a service that no definition holds. A service that is up has it after its next start."""
        service = self._service(params.service)
        if service.host:
            hint = f"gpumod service secret set {service.host} {params.name}"
            raise UsageError("no-process", f"{service.id} has no process of its own", why="its host has", hint=hint)
        if service.adopted:
            why = "whoever set it up says what it gets"
            raise Failed("adopted", f"{service.id} was adopted, so no variable reaches it", why=why)
        value = params.value.get_secret_value()
        why = why_no_variable(params.name, value) if value else "its value is empty"
        if why := why or why_not_with(self._machine, service, {params.name: value}):
            hint = "name a variable that the service reads, and give its value on stdin"
            raise UsageError("bad-secret", f"{params.name} cannot be a secret of {service.id}", why=why, hint=hint)
        return self._changed(service.id, params.name, value)

    async def secret_remove(self, params: SecretRef) -> SecretsResult:
        """Forget a secret."""
        service = self._service(params.service)
        names = self._machine.secrets.names(service.id)
        if params.name not in names:
            raise unknown("secret", params.name, names, f"gpumod service secret list {service.id}")
        return self._changed(service.id, params.name, None)

    def _changed(self, service: str, name: str, value: str | None) -> SecretsResult:
        store = self._machine.store
        with store.together():  # its lock is that of the file of secrets, too
            stored = self._service(service)
            self._machine.secrets.put(service, name, value)
            event = self._event("secret-removed" if value is None else "secret-set", service, name=name)
            store.put_service(stored, event=event, user_edited=sorted(store.user_edited(service)))
        apply = f"gpumod service restart {service}" if service in store.handles() else ""
        return SecretsResult(service=service, names=self._machine.secrets.names(service), apply=apply)


def told_of_secrets(service: Service) -> tuple[str, ...]:
    """What to say of a definition that holds secrets among its options: how they are kept apart."""
    names = public(service)[1]
    if not names:
        return ()
    of_env = (name.partition(": ")[2] or name.partition(".")[2] for name in names if name.startswith("env"))
    variable = next((name for name in of_env if not why_no_variable(name, "")), "NAME")
    apart = f"gpumod service secret set {service.host or service.id} {variable}"
    told = f"{service.id} holds a secret in {', '.join(names)}, which the database keeps as it is"
    return (f"{told}: `{apart}` keeps a variable apart; then take it out of the definition",)


def told_of_lost_secrets(service: Service, secrets: Secrets) -> tuple[str, ...]:
    """What to say of the removal of a service: which secrets go with it, kept apart or among its options."""
    try:
        apart = secrets.names(service.id)
    except GpumodError as error:
        apart = (f"in a file that cannot be used: {error.info.why};",)
    names = [*apart, *public(service)[1]]
    return (f"{service.id}'s secrets {', '.join(names)} go with it",) if names else ()
