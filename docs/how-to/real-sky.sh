#!/usr/bin/env bash
# The main job on real sky: pretrain on real galaxies, classify three real fields.
#
#   docs/how-to/real-sky.sh DATA OUT [--set KEY=VALUE ...]
#
# DATA holds the public galaxies and survey fields that docs/how-to/real-sky.md lists. What follows OUT
# goes to the pretraining. Repeating the command resumes. Nothing here is simulated.
set -euo pipefail
data=$1
out=$2
shift 2
mkdir -p "$out"

# One store of every labelled image set, each under its own campaign or unlabelled.
gzsurvey dataset build real-sky "$out/store" --set data="$data"

gzsurvey pretrain real-sky-pretrain "$out/pretrained" --dataset "$out/store" "$@"

gzsurvey finetune real-sky-rings "$out/pretrained" "$out/rings" \
    --labels "$data/gz_decals_rings/catalogue.csv" --images "$data/gz_decals_rings/images.zip"

gzsurvey export "$out/pretrained" "$out/galaxies.onnx"
gzsurvey export "$out/rings" "$out/rings.onnx"

# KiDS/VIKING: zero points as the file's origin states them; the WCS is nominal.
field=$data/survey_field_kids_viking
gzsurvey classify --model "$out/rings.onnx" --out "$out/kids-viking" \
    --targets "$field/detections_r.fits" --size-column r50_pix --size-unit pix --keep snr,r50_pix,extended \
    --cutouts "mosaic:$field/kids_viking_{band}.fits" --bands g,r,Z --zeropoints 0,0,30
gzsurvey report "$out/kids-viking"

# VISTA: two dithered frames of one band, H for each channel.
field=$data/survey_field_vista_frames
gzsurvey classify --model "$out/rings.onnx" --out "$out/vista" \
    --targets "$field/detections_swarp_med.fits" --size-column r50_pix --size-unit pix --keep snr,r50_pix \
    --cutouts "mosaic:$field/image_*.fits" --bands H,H,H
gzsurvey report "$out/vista"

# NGC 6976: the headers all say FILTER='g', so the band is taken from the file name.
field=$data/survey_field_sdss_ngc6976
gzsurvey classify --model "$out/rings.onnx" --out "$out/ngc6976" \
    --targets "$field/detections_r.fits" --size-column r50_pix --size-unit pix --keep snr,r50_pix \
    --cutouts "mosaic:$field/reprojected_sdss_{band}.fits.bz2" --bands g,r,i --zeropoints 22.5,22.5,22.5
gzsurvey report "$out/ngc6976"
