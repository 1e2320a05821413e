"""Ray's processes on this machine, without those that have nothing to do for playhead.

They would take a third of a start's processor time or more, and 265 MiB. Ray has no options for it.
"""

from typing import Any

import ray
from ray._private import node, ray_constants, services, utils

_raylet: Any = ray._raylet

#: Ray insists on these. One tells of the machine, the other installs what actors ask for.
_AGENTS = (
    ray_constants.PROCESS_TYPE_DASHBOARD_AGENT,
    ray_constants.PROCESS_TYPE_RUNTIME_ENV_AGENT,
)
#: What they would write to files: where they listen. -1, as Ray's own minimal agent says of the
#: first three, is nowhere.
_AGENT_PORTS = (
    _raylet.DASHBOARD_AGENT_LISTEN_PORT_NAME,
    _raylet.METRICS_AGENT_PORT_NAME,
    _raylet.METRICS_EXPORT_PORT_NAME,
    _raylet.RUNTIME_ENV_AGENT_PORT_NAME,
)
#: Runs as long as the raylet does, which holds the other end of its standard input.
_IDLE = ["sh", "-c", "exec cat"]

_command_of = services._build_python_executable_command_memory_profileable


class _Node(node.Node):
    def start_monitor(self) -> None:
        """It would ask for more machines."""

    def start_log_monitor(self) -> None:
        """It would bring what actors have to say to the driver, which `log_pipe` does."""

    def start_api_server(self, **_: Any) -> None:
        """Without the dashboard, it would report usage."""

    def start_raylet(self, *arguments: Any, **options: Any) -> None:
        this: Any = self
        for name in _AGENT_PORTS:
            _raylet.persist_port(this.get_session_dir_path(), this.node_id, name, -1)
        super().start_raylet(*arguments, **options)


def _command(component: str, *arguments: Any, **options: Any) -> list[str]:
    return _IDLE if component in _AGENTS else _command_of(component, *arguments, **options)


def _dashboard_error() -> ImportError:
    """Ray would load all that its dashboard needs, to see whether it is there."""
    return ImportError("there is no dashboard")


def install() -> None:
    """Has `ray.init` start no others in this process."""
    node.Node = _Node  # type: ignore[misc]
    services._build_python_executable_command_memory_profileable = _command
    utils.get_dashboard_dependency_error = _dashboard_error
