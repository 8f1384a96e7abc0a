"""`streamkd reencode`: a video whose vectors are refused becomes one whose vectors are read."""

import numpy as np
import pytest

from datamodules.bitstream import CompressedVideo, UnreadableVideoError
from lightning_modules.cli import main


def test_the_remedy_that_a_refusal_names_works(b_frame_video, tmp_path, capsys):
    with CompressedVideo(b_frame_video) as video, pytest.raises(UnreadableVideoError) as refused:
        video.read(gop=0, position=1, streams=("mv",))
    assert f"streamkd reencode --source {b_frame_video} --target clip.mp4" in refused.value.remedy
    target = tmp_path / "clip.mp4"
    main(["reencode", "--source", str(b_frame_video), "--target", str(target), "--gop_size", "6", "--size", "[64, 48]"])
    assert str(target) in capsys.readouterr().out
    with CompressedVideo(target) as video, CompressedVideo(b_frame_video) as source:
        assert video.num_frames == source.num_frames
        assert {gop.length for gop in video.gops[:-1]} <= {6}
        assert video.read(gop=0, position=1, streams=("mv",)).mv.shape == (48, 64, 2)
        assert np.isclose(video.gops[1].start_time, 6 * source.index.frame_duration, atol=1e-3)


def test_bad_input_is_one_line_and_exit_status_1(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["reencode", "--source", str(tmp_path / "none.mp4"), "--target", str(tmp_path / "out.mp4")])
    assert stopped.value.code == 1
    error = capsys.readouterr().err.strip()
    assert "none.mp4" in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out.mp4").exists()
