"""Is an explanation faithful? Metrics that take scores from anywhere: ours, another library's, a file."""
