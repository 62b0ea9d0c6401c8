from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent

setup(
    name="supervisor_rolling",
    version="0.1.0",
    description="Rolling restarts for Supervisor: no failed request, no cold process",
    long_description=(here / "README.rst").read_text(encoding="utf-8") if (here / "README.rst").exists() else "",
    long_description_content_type="text/x-rst",
    license="MIT",
    packages=find_packages(include=["supervisor_rolling", "supervisor_rolling.*"]),
    package_data={"supervisor_rolling": ["py.typed"], "supervisor_rolling.skel": ["rolling.yaml", "supervisord.conf"]},
    python_requires=">=3.9",
    install_requires=[
        "supervisor>=4.2.3",
        "supervisor>=4.2.5; python_version>='3.12'",  # earlier ones import asynchat, which 3.12 has no more
        "python-iptables>=1.0",
        "requests>=2.25",
        "PyYAML>=5.4",
        "crossplane>=0.5.7",  # reads what nginx is told
    ],
    extras_require={
        "demo": ["Django>=4.2", "Jinja2>=3.0", "tornado>=6.3"],
        "test": [
            "pytest>=7",
            "pytest-xdist>=3",
            "hypothesis>=6.82",
            "gunicorn>=21.2",
            "waitress>=2.1",
            "uvicorn>=0.23",
            "tornado>=6.3",
            "prometheus_client>=0.19",
            "selenium>=4.11",  # looks at pages in Chromium
            "ansible-core>=2.15",
            "setuptools>=70.1",  # makes the wheel that Ansible installs
        ],
        # What the benchmark compares with; uWSGI is built with gcc.
        "bench": ["gunicorn>=21.2", "uWSGI>=2.0.20", "circus>=0.18", "supervisor-serialrestart>=0.1.1"],
        "metrics": ["prometheus_client>=0.19"],
        "pools": ["tornado>=6.3", "gunicorn>=21.2", "waitress>=2.1", "uWSGI>=2.0.20"],  # uWSGI is built with gcc
        # supervisor 4.2 imports pkg_resources and asks for any setuptools, of which 82 has it no more.
        "supervisor42": ["supervisor>=4.2.3,<4.3", "setuptools<82"],
        "lint": ["ruff>=0.6", "mypy>=1.11", "types-PyYAML", "types-requests"],
    },
    entry_points={
        "console_scripts": [
            "supervisor_rolling = supervisor_rolling.ctl.program:main",
            "supervisor_rolling_listener = supervisor_rolling.listener.main:main",
            "echo_rolling_conf = supervisor_rolling.skel:main",
        ]
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: System Administrators",
        "License :: OSI Approved :: MIT License",
        "Operating System :: POSIX :: Linux",
        *(f"Programming Language :: Python :: {version}" for version in ("3", "3.9", "3.10", "3.11", "3.12", "3.13")),
        "Topic :: System :: Boot",
        "Topic :: System :: Systems Administration",
    ],
)
