"""Records of responses, for extensions that send them again."""

from kernel.ext.recorder.recorder import RecordedResponse, Replay, ResponseRecorder

__all__ = ["RecordedResponse", "Replay", "ResponseRecorder"]
