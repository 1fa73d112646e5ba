from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mip_edge.errors import OptionError
from mip_edge.live.source_options import SourceOptions, parse_sources, shown_url
from mip_edge.spec import Modality

PIPELINE = "gst:videotestsrc ! video/x-raw,width=640,height=480 ! videoconvert ! appsink"


def test_a_source_is_parsed_whatever_the_order_of_its_keys() -> None:
    source = SourceOptions.parse("modality=infrared, url=a,b.mp4 ,name=gate")
    assert (source.name, source.url, source.modality) == ("gate", "a,b.mp4", Modality.INFRARED)
    query = SourceOptions.parse("name=n,url=rtsp://h/p?a=1&b=2,modality=visible")
    assert query.url == "rtsp://h/p?a=1&b=2"
    images = SourceOptions.parse("name=n,url=folder,rate=2.5")
    assert (images.rate, images.modality) == (2.5, None)


@pytest.mark.parametrize("text", ["name=gate,url=0", "name=gate,url=0,modality=auto"])
def test_the_modality_is_found_out_unless_it_is_given(text: str) -> None:
    assert SourceOptions.parse(text).modality is None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("0", "camera0"),
        ("videos/gate.mp4", "gate"),
        ("videos/", "videos"),
        ("videos/yard/*.jpg", "yard"),
        ("*.jpg", "images"),
        ("rtsp://user:secret@nvr.local:554/secret?token=secret", "nvr.local"),
        ("rtsp://secret@10.0.0.7/", "10.0.0.7"),
        ("http://host/a,b.mjpg", "host"),
        (PIPELINE, "pipeline"),
    ],
)
def test_a_url_alone_is_a_source_and_names_itself_without_secrets(text: str, name: str) -> None:
    source = SourceOptions.parse(text)
    assert (source.name, source.url, source.modality) == (name, text, None)


def test_a_url_alone_may_be_followed_by_its_modality() -> None:
    source = SourceOptions.parse("gate.mp4,modality=infrared")
    assert (source.name, source.url, source.modality) == ("gate", "gate.mp4", Modality.INFRARED)


def test_a_pipeline_keeps_its_commas_and_equals_signs() -> None:
    source = SourceOptions.parse(f"name=jetson,url={PIPELINE},modality=visible")
    assert (source.url, source.modality) == (PIPELINE, Modality.VISIBLE)
    assert not source.is_file


def test_names_made_of_equal_urls_get_a_number_and_given_names_keep_theirs() -> None:
    texts = ["rtsp://nvr/1", "rtsp://nvr/2", "name=nvr-2,url=rtsp://nvr/3", "rtsp://nvr/4"]
    assert [source.name for source in parse_sources(texts)] == ["nvr", "nvr-3", "nvr-2", "nvr-4"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name=gate,modality=visible", "--source gate has no url"),
        ("name=gate,url=,modality=visible", "has no url"),
        ("name=,url=0", "has no name"),
        ("", "has no url"),
        ("name=gate,url=0,modalty=visible", "no key 'modalty'"),
        ("nmae=gate,url=0", "no key 'nmae'"),
        ("name=gate,url=0,url=1,modality=visible", "url twice"),
        ("name=gate,url=0,modality=thermal", "visible, infrared or auto, got 'thermal'"),
        ("name=a/b,url=0", "'a/b' cannot be part of a file name"),
        ("name=gate,url=folder,rate=fast", "rate must be a number"),
        ("name=gate,url=folder,rate=0", "rate must be above 0, got 0"),
        ("name=gate,url=rtsp://u:secret@h/p,rate=2", "rate is for a folder or glob of images"),
    ],
)
def test_a_source_that_cannot_be_is_one_clear_line(text: str, words: str) -> None:
    with pytest.raises(OptionError, match="^[^\n]*$") as error:
        SourceOptions.parse(text)
    assert words in str(error.value)
    assert "secret" not in str(error.value)


def test_two_cameras_of_one_name_are_refused_and_one_must_be_there() -> None:
    with pytest.raises(OptionError, match="'gate' is given twice"):
        parse_sources(["name=gate,url=0,modality=visible", "name=gate,url=1,modality=visible"])
    with pytest.raises(OptionError, match="at least one"):
        parse_sources([])


@pytest.mark.parametrize(
    ("url", "recording"),
    [
        ("0", False),
        ("/dev/video0", False),
        ("gate.mp4", True),
        ("frames/*.png", True),
        ("rtsp://host/gate.mp4", False),
        ("http://host/gate.mp4?t=1", True),
        ("http://host/video.mjpg", False),
        ("file:///videos/gate.mp4", True),
        (PIPELINE, False),
        ("gst:filesrc location=gate.mp4 ! decodebin ! videoconvert ! appsink", True),
    ],
)
def test_what_has_an_end_is_a_recording(url: str, recording: bool) -> None:
    assert SourceOptions("gate", url).is_file is recording


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://user:secret@host:554/path", "rtsp://user:***@host:554/path"),
        ("rtsp://user:se/cr@et@host/path", "rtsp://user:***@host/path"),
        ("rtsp://secret@host/path", "rtsp://***@host/path"),
        (
            "http://host/video?user=a&password=secret&x=1",
            "http://host/video?user=a&password=***&x=1",
        ),
        ("http://host/video?access_token=secret", "http://host/video?access_token=***"),
        ("rtsp://host/user=a_password=secret_channel=1", "rtsp://host/user=a_password=***"),
        (
            "gst:rtspsrc location=rtsp://u:secret@h/p user-pw=secret ! appsink",
            "gst:rtspsrc location=rtsp://u:***@h/p user-pw=*** ! appsink",
        ),
        ("rtsp://host:554/path", "rtsp://host:554/path"),
        ("http://host/path@2", "http://host/path@2"),
        ("folder/gate.mp4", "folder/gate.mp4"),
    ],
)
def test_passwords_are_masked(url: str, shown: str) -> None:
    assert shown_url(url) == shown
    assert "secret" not in repr(SourceOptions("gate", url, Modality.VISIBLE))


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=20))
def test_no_password_is_shown_whatever_it_is_made_of(password: str) -> None:
    url = f"rtsp://user:<{password}>@10.0.0.7:554/stream"
    assert f"<{password}>" not in shown_url(url)


def test_a_password_with_a_comma_is_not_shown_in_pieces() -> None:
    with pytest.raises(OptionError, match="%2C") as told:
        SourceOptions.parse("name=gate,url=rtsp://user:hun,ter2=x@host/path")
    assert "ter2" not in str(told.value)
