"""A page to watch the streams of a running graph on: pictures, numbers, class shares."""
