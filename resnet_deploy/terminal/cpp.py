"""A C++ project that was written, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resnet_deploy.serving.cpp.write import Project


def project(project: Project) -> str:
    path = project.path
    return "\n".join(
        [
            f"{path}: runs {', '.join(project.artifacts)} with {project.backend}",
            "",
            "Build and run it (its README.md has what it needs):",
            f"    cd {path} && cmake --preset default && cmake --build --preset default",
            "    build/classify bundle image.ppm",
        ]
    )
