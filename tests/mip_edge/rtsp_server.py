"""A real RTSP server for the tests, on GStreamer: `/usr/bin/python3 rtsp_server.py PORT`.

It shows a moving ball as H.264 at rtsp://user:secret@127.0.0.1:PORT/gate, prints `ready` when it
listens, and the transport that each client asks for.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

PIPELINE = (
    "( videotestsrc is-live=true pattern=ball ! video/x-raw,width=160,height=120,framerate=30/1 "
    "! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=15 threads=1 "
    "! rtph264pay name=pay0 config-interval=1 )"
)


def locked(server):
    """Let in nobody but `user` with the password `secret`."""
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    auth = GstRtspServer.RTSPAuth()
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic("user", "secret"), token)
    server.set_auth(auth)


def mounted(server):
    """The one stream, shared by all who look."""
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(PIPELINE)
    factory.set_shared(True)
    factory.add_role_from_structure(
        Gst.Structure.from_string(
            "viewer, media.factory.access=true, media.factory.construct=true"
        )[0]
    )
    server.get_mount_points().add_factory("/gate", factory)


def tell_transport(_client, context):
    """What a client writes into its SETUP."""
    _, transport = context.request.get_header(GstRtsp.RTSPHeaderField.TRANSPORT, 0)
    print("transport", transport, flush=True)


def main(port):
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    locked(server)
    mounted(server)
    server.connect(
        "client-connected", lambda _, client: client.connect("setup-request", tell_transport)
    )
    if server.attach(None) == 0:
        sys.exit(f"port {port} is taken")
    print("ready", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main(sys.argv[1])
