"""What every room needs: errors, files, assets, progress, the process's environment."""
