"""What suits a folder of scans: seen in their headers and a sample of voxels, decided by rules, each with a reason."""
