"""Settings of the project; where things are depends on the test."""

import os

SECRET_KEY = "not one"
DEBUG = True
USE_TZ = True
TIME_ZONE = "Europe/Berlin"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "django_shop.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ["SHOP_DATABASE"],
        "OPTIONS": {"timeout": 20},
    }
}
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django_celery_beat",
    "chronarch.django",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
STATIC_URL = "/static/"
CELERY_BROKER_URL = os.environ.get("SHOP_BROKER", "memory://")
CELERY_RESULT_EXPIRES = None
CELERY_TIMEZONE = "Europe/Berlin"
CHRONARCH = {
    "CELERY_APP": "django_shop.celery:app",
    "NAMESPACE": os.environ.get("SHOP_NAMESPACE"),
}
if os.environ.get("SHOP_STATIC"):
    CELERY_BEAT_SCHEDULE = {
        os.environ["SHOP_STATIC"]: {"task": "shop.nothing", "schedule": 365 * 86_400.0, "options": {"expires": 60}}
    }
CELERY_CHRONARCH_SYNC_EVERY = float(os.environ.get("CELERY_SYNC_EVERY", "60"))
