"""For a checkout without an installation: `python cli.py ...` is `resnet-deploy ...`."""

from resnet_deploy.cli import main

if __name__ == "__main__":
    main()
