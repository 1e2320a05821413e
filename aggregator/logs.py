"""Log lines: when, how bad, from where, what. On standard error, as one line each."""

import logging
import logging.config


def configure(level: str) -> None:
    """For this process; chatty libraries speak only of trouble."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "line": {"format": "%(asctime)s %(levelname)-7s %(name)s: %(message)s"},
            },
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
            "root": {"level": level.upper(), "handlers": ["stderr"]},
            "loggers": {
                "sanic.root": {"level": "WARNING"},
                "sanic.server": {"level": "WARNING"},
                "sanic.error": {"level": "WARNING"},
                "asyncio": {"level": "WARNING"},
                "ray": {"level": "WARNING"},
            },
        }
    )
