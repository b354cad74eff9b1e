"""Celery on a cluster in place of `celery beat`: `chronarch-celery` and its parts. Needs Celery: the extra
`celery` of the package."""
