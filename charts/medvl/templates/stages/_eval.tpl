{{/* Serves every variant with a model: the coordinator adds it to the command line, and makes it an Indexed Job. */}}
{{- define "medvl.stage.eval" -}}
apiVersion: batch/v1
kind: Job
metadata:
  {{- include "medvl.stageMetadata" (dict "root" . "stage" "eval") | nindent 2 }}
spec:
  {{- include "medvl.jobSpec" (dict
    "root" . "stage" "eval" "image" "eval" "model" "load" "gpus" .Values.eval.gpus) | nindent 2 }}
{{- end }}

{{/* The evaluation without a model: eval's image on the report's resources, without a GPU. */}}
{{- define "medvl.stage.template" -}}
apiVersion: batch/v1
kind: Job
metadata:
  {{- include "medvl.stageMetadata" (dict "root" . "stage" "report") | nindent 2 }}
spec:
  {{- include "medvl.jobSpec" (dict "root" . "stage" "report" "image" "eval") | nindent 2 }}
{{- end }}
