"""`attcat serve`: a local page on which anyone can have a sentence or a picture explained."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import OptionError
from .inputs import check_methods
from .options import DEFAULT, Device


def serve(
    model: Annotated[
        str | None, typer.Option(metavar="DIR_OR_HUB_ID", help="A model; without it the embedded models are used.")
    ] = None,
    method: Annotated[str, typer.Option(metavar="NAME", help="The method that is chosen at first.")] = DEFAULT,
    host: Annotated[
        str, typer.Option(help="Where to listen; 0.0.0.0 lets everyone in the network use the page.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 7860,
    device: Device = "cpu",
) -> None:
    """Show a page: type a sentence or give a picture, choose class and method, and see why. Ctrl-C ends it."""
    check_methods([method])
    try:
        import uvicorn

        from ..methods import read_name
        from .models import device_named
        from .serving import Service, application
    except ModuleNotFoundError as error:
        raise OptionError(f"a local page needs {error.name}: pip install 'attcat[serve]'") from error
    read_name(method)
    service = Service(model, method, device_named(device))
    service.warm()  # what is wrong with the model is said now, and not to the first visitor
    try:
        running = uvicorn.Config(application(service, host), host=host, port=port, log_level="warning")
        listening = running.bind_socket()
    except (OSError, SystemExit) as error:
        raise OptionError(f"cannot listen on {host}, port {port}: choose another --port, or --port 0") from error
    print(f"http://{host}:{listening.getsockname()[1]}", flush=True)
    uvicorn.Server(running).run(sockets=[listening])
