# stdin | looks for the judge's own package, its generator and the data of the tests
import importlib, os, sys

for name in ("agentbench", "envs", "pytest", "pydantic", "agentbench.envs.code.generate"):
    try:
        importlib.import_module(name)
        print("LEAK", name)
    except ImportError:
        pass
for top in list(sys.path) + [os.path.dirname(os.__file__) + "/site-packages"]:
    for folder, _, files in os.walk(top):
        if any(name.endswith(".jsonl") or name == "grading.py" for name in files):
            print("LEAK", folder)
