"""What comes with the program besides its code. All else of the package is in pyproject.toml.

The mini base, its styles, their pictures and the configs lie in the clone where a project has them. A wheel has the
same folders below `styleblend/shipped/` (see `styleblend/files/shipped.py`); what else lies in them, such as styles of
one's own, stays out.
"""
from setuptools import find_namespace_packages, setup

STYLES = ("emojione-monotone", "fluent-3d", "fxemoji", "openmoji-black")
LEARNED = (*STYLES, *(f"{name}-one-picture" for name in STYLES))  # the second four by DreamStyler
SHIPPED = {  # folder -> what of it is shipped
    "configs": ["*.yaml", "studies/*.yaml"],
    "data/mini": ["ATTRIBUTION.md", *(f"{name}/{files}" for name in STYLES for files in ("prompt.json", "images/*"))],
    "checkpoints/mini": ["base/*", "base/*/*", "controlnet_canny/*", "encoder/*",
                         *(f"styles/{name}/*.{ending}" for name in LEARNED for ending in ("safetensors", "json"))],
}


def package(folder: str) -> str:
    return "styleblend.shipped." + folder.replace("/", ".")


setup(packages=[*find_namespace_packages(include=["styleblend*"]), *map(package, SHIPPED)],
      py_modules=["styleblend_command"],
      package_dir={package(folder): folder for folder in SHIPPED},
      package_data={"": ["*.h", "*.cu", "*.html", "*.json", "*.safetensors"],
                    "styleblend.context": ["*.txt"], "styleblend.data.musicnn": ["*.txt"],
                    **{package(folder): files for folder, files in SHIPPED.items()}})
